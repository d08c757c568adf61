"""The bare Streamlit page that the dashboard is measured beside: a title, one widget, and with `?map=float32` or `uint8` a Plotly heatmap of 2,048 x 2,048."""

import numpy as np
import plotly.graph_objects as go
import streamlit as st

st.title("Bare")
word = st.text_input("Word", key="word")
st.write(f"{len(word)} characters")
if "map" in st.query_params:
    cells = np.tril(np.random.default_rng(0).integers(0, 256, (2048, 2048), dtype=np.uint8))
    st.plotly_chart(go.Figure(go.Heatmap(z=cells / np.float32(255) if st.query_params["map"] == "float32" else cells)))
